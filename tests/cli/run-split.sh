. "$ROOT/tests/cli/lib"
# The last blocks on another device, the first ones on the CPU: the same text.
p='In the beginning'
gptq-run "$T" -p "$p" -n 16 --temp 0 --device cpu >one
for n in 0 1 5 6 99 auto; do
	gptq-run "$T" -p "$p" -n 16 --temp 0 --device ref --gpu-layers $n |
		cmp - one
done
gptq-run "$T" -p "$p" -n 2 --temp 0 --device ref --gpu-layers 4 -t 1 -v \
	2>&1 >/dev/null | grep -E 'block|linear' | sed 's/cpu .*:$/cpu:/'
gptq-run "$T" -p "$p" -n 2 --temp 0 --device ref --gpu-layers 4 --json |
	jq -r .device | sed 's/^cpu.* + \(ref\)[a-z]*.*/cpu + \1/'
gptq-run "$T" -p "$p" -n 2 --temp 0 --device cpu --gpu-layers 4 >/dev/null
head -c 3000 "$T/eval.txt" >text
for n in 0 3; do
	gptq-verify "$T" --ppl text --seqlen 128 --device ref --gpu-layers $n \
		--json | jq .perplexity.value
done | sed 's/\(\.[0-9]\{4\}\).*/\1/' | uniq | wc -l
for n in x -1 3x ''; do
	refused gptq-run "$T" -p x --gpu-layers "$n"
done
refused gptq-verify "$T" --ppl "$TEXT" --gpu-layers many
