. "$ROOT/tests/cli/lib"
gptq-repack "$Q" -o v2 --to gptq_v2
gptq-inspect v2 | sed -n '/format/,/symmetric/p'
# and back: the same bytes
gptq-repack v2 -q -o v1
diff -r "$Q" v1
# shards and one file
gptq-repack "$Q" -q -o shards --shard-size 1MB
gptq-inspect shards --files | awk '{print $1, $3}'
gptq-repack shards -q -o single --single-file
diff -r "$Q" single
# dense weights, in three types
for t in f16 bf16 f32; do
	gptq-repack "$Q" -q -o dense-$t --to dense --dtype $t
	gptq-inspect dense-$t | grep -E 'format|size'
done
[ -e dense-f16/quantize_config.json ] && echo "a dense folder with a quantization config"
grep -c quantization_config dense-f16/config.json
# in f32 nothing is rounded, so nothing may differ
gptq-verify "$Q" --against dense-f32 --max-layer-error 0 -q >/dev/null
echo "status $?"
# a dense model stays dense by itself
gptq-repack "$T" -q -o t --shard-size 4MB
gptq-inspect t --files | awk '{print $1, $3}'
gptq-repack "$Q" -q -o j --json >j.json
json_ok j.json
gptq-repack "$Q" --plan --to gptq_v2 | head -n 4
gptq-repack "$Q" --plan --json --to gptq_v2 >p.json
json_ok p.json
grep -c '"note"' p.json
echo "$Q" | gptq-repack - -q -o stdin --no-check
