. "$ROOT/tests/cli/lib"
greedy="--temp 0 --ignore-eos"
# the reference's continuation
# shellcheck disable=SC2086
{
	gptq-run "$T" -p 'In the beginning' -n 64 $greedy
	# one answer, four ways to give the prompt
	echo 'In the beginning' >prompt
	gptq-run "$T" -f prompt -n 8 $greedy
	gptq-run "$T" -n 8 $greedy <prompt
	gptq-run "$T" --ids 1,565,266,1602,263,894 -n 8 $greedy
	(echo "$T"; cat prompt) | gptq-run - -n 8 $greedy
	# in front of a stop text, also one that spans tokens
	gptq-run "$T" -p 'In the beginning' -n 64 $greedy --stop ' week, the'
	gptq-run "$T" -p 'In the beginning' -n 64 $greedy --stop 'zzz' --stop 'rst'
	# the context ends it
	gptq-run "$T" -p 'In the beginning' -n -1 -c 12 $greedy
	# nothing
	gptq-run "$T" -p 'In the beginning' -n 0
	# a quantized model, every kernel, any number of threads
	gptq-run "$Q" -p 'In the beginning' -n 12 $greedy >q
	gptq-run "$Q" -p 'In the beginning' -n 12 $greedy -t 1 | cmp - q
	gptq-run "$Q" -p 'In the beginning' -n 12 $greedy --kernel generic | cmp - q
	gptq-run "$T" -p Once -n 3 $greedy -v 2>&1 | sed -E 's/kernel [a-z0-9]+/kernel NAME/; s/; no GPU.*//'
}
# equal seeds, equal text
gptq-run "$T" -p 'In the beginning' -n 24 --seed 7 >a
gptq-run "$T" -p 'In the beginning' -n 24 --seed 7 >b
gptq-run "$T" -p 'In the beginning' -n 24 --seed 8 >c
cmp a b
cmp -s a c && echo "another seed, the same text"
gptq-run "$T" -p 'In the beginning' -n 8 --temp 1.2 --top-k 0 --top-p 0.9 \
	--min-p 0.05 --repeat-penalty 1.1 >/dev/null
