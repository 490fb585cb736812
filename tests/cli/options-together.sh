# What would change nothing beside the others is a slip: it is named.
. "$ROOT/tests/cli/lib"
run() {
	refused gptq-run "$T" "$@"
}
for o in pp tg depth runs batch; do
	run -p x --$o 4
done
run -p x --system s
run -p x --chat-template alpaca
for o in '-n 3' '-c 9' '--temp 0' '--top-k 1' '--top-p 1' '--min-p 0' \
	'--repeat-penalty 1' '--seed 1' '--stop x' '--ignore-eos'; do
	# shellcheck disable=SC2086
	run --bench $o
	# shellcheck disable=SC2086
	run --tokenize -p x $o
done
for o in --kernel=avx2 --kv-type=f16 --gpu-layers=1; do
	run --tokenize $o
	run --detokenize $o
done
run --bench -f x
run --bench --tokenize
run --batch-file x -f y
# nothing is added to ids anyway
echo 1 565 | gptq-run "$T" --detokenize --no-bos
echo
gptq-run "$T" --ids 1,565 --no-bos -n 0

see() {
	refused gptq-inspect "$T" "$@"
}
see --match q_proj
see --match q_proj --doctor
see --tensor lm_head.weight --raw --doctor
see --raw
see --head 3 --tensors
gptq-inspect "$T" --json --match q_proj | grep -c dtype
gptq-repack "$T" -o shards --shard-size 4MB
gptq-inspect shards --files --match 'layers\.0\..*norm|embed'
refused gptq-repack "$Q" -o x --to gguf --shard-size 1GB
refused gptq-repack "$Q" -o x --to marlin --shard-size 1GB

refused gptq-quantize "$T" -o x --method hqq --damp-percent 0.1
refused gptq-quantize "$T" -o x --method rtn --no-true-sequential
refused gptq-quantize "$T" -o x --format marlin --shard-size 1GB --calib x

for o in --seqlen=64 --kv-type=f16 --gpu-layers=1; do
	refused gptq-verify "$Q" --against "$T" $o
done
refused gptq-verify "$Q" --ppl x --max-ppl-ratio 2
refused gptq-verify "$Q" --kld x
# --help and --version are answered whatever stands beside them
gptq-run --batch 2 --version >/dev/null
