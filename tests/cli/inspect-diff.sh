# Two checkpoints, whatever their layout or sharding.
. "$ROOT/tests/cli/lib"
status gptq-inspect "$T" --diff "$T"
# sharding is no difference
gptq-repack "$T" -q -o shards --shard-size 1MB >out
status gptq-inspect "$T" --diff shards | tail -n 2
# another layout: every weight is equal, how it is stored is told
gptq-repack "$Q" -q -o v2 --to gptq_v2 >out
status gptq-inspect "$Q" --diff v2
# rounded to F16, and quantized
gptq-repack "$Q" -q -o dense --to dense >out
gptq-inspect "$Q" --diff dense | grep -E '^ '
gptq-inspect "$T" --diff "$Q" --match '\.0\.mlp\.up' |
	sed -E 's/[0-9]+\.[0-9]+/F/g; s/ +/ /g'
# one bit of one tensor, a tokenizer, a key
cp -r "$T" other
chmod -R u+w other
printf 'X' | dd of=other/model.safetensors bs=1 seek=4000000 conv=notrunc 2>/dev/null
echo >>other/tokenizer.json
sed 's/"rms_norm_eps": [^,]*/"rms_norm_eps": 0.5/' "$T/config.json" >other/config.json
status gptq-inspect "$T" --diff other | sed -E 's/[0-9.]+e-[0-9]+/F/g'
gptq-inspect "$T" --diff other -t 1 >one
gptq-inspect "$T" --diff other -t 4 | cmp - one
gptq-inspect "$T" --diff other --json >j.json
echo "status $?"
json_ok j.json
grep -c '"state": "equal"' j.json
status gptq-inspect "$T" --diff other -P 2>/dev/null
refused gptq-inspect "$T" --diff nowhere
refused gptq-inspect "$T" --diff "$T" --match '('
