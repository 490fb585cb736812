. "$ROOT/tests/cli/lib"
# digits, and the layer that comes out worst, hang on the machine's arithmetic
short() {
	sed -E 's/\([^()]*\)$/(TIME)/; s/[0-9]+\.[0-9]+/N/g; s/model\.layers\.[a-z0-9_.]+/LAYER/g'
}
head -c 1200 "$TEXT" >text.txt
gptq-verify "$Q"
gptq-verify "$T"
gptq-verify "$Q" --against "$T" --ppl text.txt --kld text.txt --seqlen 128 \
	--max-ppl 100 --max-ppl-ratio 2 --max-kld 2 --min-top1 0.3 \
	--max-layer-error 0.5 | short
echo "status $?"
# every limit can fail
lim() {
	gptq-verify "$Q" --against "$T" "$@" >out
	s=$?
	grep FAIL out | short
	echo "status $s, $(tail -n 1 out)"
}
lim --seqlen 128 --ppl text.txt --max-ppl 2
lim --seqlen 128 --ppl text.txt --max-ppl-ratio 1.0001
lim --seqlen 128 --kld text.txt --max-kld 0.0001
lim --seqlen 128 --kld text.txt --min-top1 0.9999
lim --max-layer-error 0.0001
# a limit that nothing would look at is refused
refused gptq-verify "$Q" --max-ppl 2
refused gptq-verify "$Q" --ppl text.txt --max-ppl-ratio 2
refused gptq-verify "$Q" --max-kld 2
refused gptq-verify "$Q" --min-top1 0.5
refused gptq-verify "$Q" --max-layer-error 0.5
refused gptq-verify "$Q" --kld text.txt
refused gptq-verify "$Q" --ppl nowhere.txt
refused gptq-verify "$Q" --ppl text.txt --seqlen 2000
refused gptq-verify "$Q" --against nowhere
printf 'too short' >short.txt
refused gptq-verify "$Q" --ppl short.txt --seqlen 128
refused gptq-verify "$Q" -P --json
# the path is printed on success only
gptq-verify "$Q" -P 2>report
cat report
gptq-verify "$Q" -P --against "$T" --max-layer-error 0 2>/dev/null
echo "status $?"
echo "$Q" | gptq-verify - -q -P
