. "$ROOT/tests/cli/lib"
refused gptq-repack "$Q"
refused gptq-repack "$Q" -o r --single-file --shard-size 1GB
refused gptq-repack nowhere -o r
gptq-repack "$T" -o r --to gptq
echo "status $?"
mkdir r
echo mine >r/file
refused gptq-repack "$Q" -o r
cat r/file
only r
# over itself: the old folder serves until the new one is whole
copy_q q
gptq-repack q -q -o q --to gptq_v2 -f
gptq-inspect q | grep format
gptq-verify q -q >/dev/null || echo "q does not verify"
only q r
