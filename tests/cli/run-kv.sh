. "$ROOT/tests/cli/lib"
# Half the numbers give the same text here, and 8 bits nearly the same model.
for t in f32 f16 q8; do
	gptq-run "$T" -p 'In the beginning' -n 24 --temp 0 --device cpu \
		--kv-type $t >$t
	gptq-run "$T" -p 'In the beginning' -n 24 --temp 0 --device cpu \
		--kv-type $t -t 1 | cmp - $t
	[ -s $t ] || fail "$t: nothing"
done
cmp f32 f16
head -c 20000 "$T/eval.txt" >text
gptq-verify "$T" --against "$T" --kld text --seqlen 512 --device cpu \
	--kv-type q8 --max-kld 0.002 --min-top1 0.97 --json |
	jq '.passed, .divergence.mean > 1e-7'
gptq-verify "$T" --against "$T" --kld text --seqlen 512 --device cpu --json |
	jq '.divergence.max < 1e-9'
refused gptq-run "$T" -p x --kv-type q4
# What does not fit says what would.
cp -r "$T" long
chmod -R u+w long
sed 's/"max_position_embeddings": 1024/"max_position_embeddings": 134217728/' \
	"$T/config.json" >long/config.json
refused gptq-run long -p x -n 1 -c 134217728 --device cpu |
	sed -E 's/[0-9.]+ GiB are/N GiB are/; s/for [0-9]+/for N/; s/or [0-9]+ with/or N with/'
