# The procedure: all ids once, windows of seqlen, the tail dropped; a text and
# its ids give the same number.  The value is that of the reference.
. "$ROOT/tests/cli/lib"
value() {
	grep -A 6 '"perplexity": {' "$1" | sed -n 's/.*"value": \([0-9.]*\).*/\1/p'
}
# the first windows of 512 tokens of eval.txt: 7.34366 for eight of them
head -c 14000 "$T/eval.txt" >start.txt
gptq-run "$T" --tokenize <start.txt >ids.txt
n=$(wc -w <ids.txt)
[ "$n" -ge 4097 ] || fail "only $n tokens"
# int32, little endian
tr ' ' '\n' <ids.txt | head -n 4100 | awk '{
	printf "\\%03o\\%03o\\000\\000\n", $1 % 256, int($1 / 256) }' |
	while IFS= read -r octal; do printf "$octal"; done >eight.ids
gptq-verify "$T" --ppl eight.ids --seqlen 512 --json >a.json
value a.json | awk '{d = ($1 - 7.34366) / 7.34366; if (d < -0.001 || d > 0.001) print "perplexity " $1}'
grep '"windows"' a.json
# a text, its ids: the same
head -c 1500 "$TEXT" >text.txt
gptq-verify "$T" --ppl text.txt --seqlen 256 --json >b.json
gptq-run "$T" --tokenize <text.txt | tr ' ' '\n' | awk '{
	printf "\\%03o\\%03o\\000\\000\n", $1 % 256, int($1 / 256) }' |
	while IFS= read -r octal; do printf "$octal"; done >text.ids
gptq-verify "$T" --ppl text.ids --seqlen 256 --json >c.json
[ -n "$(value b.json)" ] || echo "no value"
[ "$(value b.json)" = "$(value c.json)" ] || echo "text and ids differ"
