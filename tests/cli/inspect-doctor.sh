# A checkpoint with a fault: found, said who refuses it, status 1; mended.
. "$ROOT/tests/cli/lib"
copy_q broken
rm broken/quantize_config.json
sed 's/"bits": 4/"bits": 8/' "$Q/config.json" >broken/config.json
gptq-inspect broken --doctor
echo "status $?"
gptq-inspect broken --doctor -P 2>/dev/null
echo "status $?"
gptq-inspect broken --doctor --json >d.json
echo "status $?"
json_ok d.json
sed -n '/"problems"/,$p' d.json | grep -c '"severity"'
gptq-inspect broken | grep -A 3 problems
# What it prints is what mends: each remedy as it stands.
gptq-inspect broken --doctor | sed -n 's/^ *mended by  //p' | sort -u >remedies
sh -eu remedies 2>log >/dev/null || cat log
grep -c ' mended ' log
gptq-inspect broken-fixed --doctor
echo "status $?"
gptq-verify broken-fixed -q >/dev/null
echo "status $?"
# One shard by its name is not a model with holes.
gptq-repack "$T" -o shards --shard-size 4MB -q >/dev/null
gptq-inspect shards/model-00001-of-00004.safetensors --doctor
