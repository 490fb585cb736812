# Hashes do not depend on how the tensors are spread over files.
. "$ROOT/tests/cli/lib"
gptq-inspect "$T" --hash >whole
wc -l <whole | tr -d ' '
grep -E ' (lm_head.weight|model.norm.weight|\(model\))$' whole
gptq-repack "$T" -q -o shards --shard-size 1MB
gptq-inspect shards --hash | cmp - whole
gptq-inspect "$T" --hash --match norm | wc -l | tr -d ' '
gptq-inspect "$T" --hash --json >j.json
json_ok j.json
grep -c '"hash"' j.json
# one bit changes one tensor and the model
cp "$T/model.safetensors" one.safetensors
chmod u+w one.safetensors
printf 'X' | dd of=one.safetensors bs=1 seek=4000000 conv=notrunc 2>/dev/null
gptq-inspect one.safetensors --hash | diff whole - | grep -c '^>'
# the published algorithm's own tool agrees, where it is
if command -v xxh128sum >/dev/null; then
	set -- $(gptq-inspect "$T" --tensors --match 'model.norm.weight' |
		awk 'NR == 2 {print $(NF-1), $(NF-2)}')
	tail -c +$(($1 + 1)) "$T/model.safetensors" | head -c "$2" >norm
	[ "$(xxh128sum <norm | cut -d' ' -f1)" = \
		"$(sed -n 's/ *model.norm.weight$//p' whole)" ] ||
		echo "another hash than xxh128sum's"
fi
# of the weights: neither files nor layouts matter, one value does
gptq-inspect "$T" --hash weights >dense
gptq-inspect shards --hash=weights | cmp - dense
gptq-inspect one.safetensors --hash weights | diff dense - | grep -c '^>'
for to in gptq_v2 marlin; do
	gptq-repack "$Q" -q -o $to --to $to >out
	gptq-inspect $to -t 1 --hash weights | tail -n 1 >$to.hash
done
gptq-inspect --hash weights "$Q" | tail -n 1 | cmp - gptq_v2.hash
cmp gptq_v2.hash marlin.hash
gptq-inspect "$Q" --hash weights --json --match 'model.norm' >j.json
json_ok j.json
grep -cE '^  "weights(_hash)?"' j.json
refused gptq-inspect "$T" --hash=word
refused gptq-inspect "$T" --hash word
