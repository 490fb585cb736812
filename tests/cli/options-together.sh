# What cannot be done as the line asks is refused; an option that changes
# nothing beside the others is named, and the rest is done.
. "$ROOT/tests/cli/lib"
# The status, and what is warned of.
idle() {
	"$@" >idle.out 2>idle.err
	echo "status $?"
	grep warning: idle.err
}
run() {
	idle gptq-run "$T" "$@"
}
for o in pp tg depth runs batch; do
	run -p x -n 0 --$o 4
done
run -p x -n 0 --pp 4 --tg 3
run -q -p x -n 0 --pp 4
refused gptq-run "$T" -p x --system s
refused gptq-run "$T" -p x --chat-template alpaca
for o in '-n 3' '-c 9' '--temp 0' '--top-k 1' '--top-p 1' '--min-p 0' \
	'--repeat-penalty 1' '--seed 1' '--stop x' '--ignore-eos'; do
	# shellcheck disable=SC2086
	run --tokenize -p x $o
done
run --bench --pp 8 --tg 1 --runs 1 --temp 0 -n 3
for o in --kernel=avx2 --kv-type=f16 --gpu-layers=1; do
	run --tokenize $o
	run --detokenize $o
done
refused gptq-run "$T" --bench -f x
refused gptq-run "$T" --bench --tokenize
refused gptq-run "$T" --batch-file x -f y
# nothing is added to ids anyway
echo 1 565 | gptq-run "$T" --detokenize --no-bos
echo
gptq-run "$T" --ids 1,565 --no-bos -n 0

see() {
	idle gptq-inspect "$T" "$@"
}
see --match q_proj
see --match q_proj --doctor
refused gptq-inspect "$T" --tensor lm_head.weight --raw --doctor
refused gptq-inspect "$T" --raw
refused gptq-inspect "$T" --head 3 --tensors
gptq-inspect "$T" --json --match q_proj | grep -c dtype
gptq-repack "$T" -o shards --shard-size 4MB
gptq-inspect shards --files --match 'layers\.0\..*norm|embed'
idle gptq-repack "$Q" -o a --to gguf --shard-size 1GB
idle gptq-repack "$Q" -o b --to marlin --plan --shard-size 1GB
refused gptq-repack "$Q" -o x --single-file --shard-size 1GB

idle gptq-quantize "$T" -o c --method rtn --damp-percent 0.1 \
	--no-true-sequential --format marlin --shard-size 1GB
refused gptq-quantize "$T" -o x --method hqq --desc-act

for o in --seqlen=64 --kv-type=f16 --gpu-layers=1; do
	idle gptq-verify "$Q" $o
done
refused gptq-verify "$Q" --ppl x --max-ppl-ratio 2
refused gptq-verify "$Q" --kld x
# --help and --version are answered whatever stands beside them
gptq-run --batch 2 --version >/dev/null
