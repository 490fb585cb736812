# The page of --html: whole, alone, small, and nothing in it but text.
. "$ROOT/tests/cli/lib"
gptq-inspect "$Q" --html plain.html
gptq-inspect "$Q" --html full.html --stats --diff "$T"
echo "status $?"
# a row for each layer, a column more for each thing to see
for page in plain full; do
	grep -c '^<tr><th scope="row">model.layers' $page.html
	grep -o 'data-map="[a-z]*">[a-z %-]*' $page.html | tr '\n' ' '
	echo
done
# the numbers are those of --json
error=$(gptq-inspect "$Q" --diff "$T" --json --match 'layers.3.mlp.up_proj' |
	sed -n 's/.*"relative_difference": \([0-9.]*\).*/\1/p')
grep -c "layers.3.mlp.up_proj<td>.*<td>$(printf %.3g "$error")<td>" full.html
# nothing from elsewhere
grep -niE 'src=|href=|url\(|@import|https?:' full.html
grep -c "default-src 'none'" full.html
[ "$(wc -c <plain.html)" -lt 40000 ] || echo large
# the same whatever the number of threads; an old page gives way
gptq-inspect "$Q" --html again.html --stats --diff "$T" -t 1
cmp full.html again.html
gptq-inspect "$Q" --html again.html --match '\.0\.'
grep -c '^<tr><th scope="row">model.layers' again.html
# in a pipe
gptq-inspect "$Q" --html - | cmp - plain.html
gptq-inspect "$Q" --html - | head -n 1
refused gptq-inspect "$Q" --html - --json
refused gptq-inspect "$Q" --html - --layers
# hostile names are text
evil_checkpoint 'e<b>"'
gptq-inspect 'e<b>"' --html evil.html --diff "$Q"
grep -ciE '<script|<img|</title' evil.html
grep -ciE "onmouseover=x=3 '[^<]*<" evil.html
grep '<title>\|<h1>\|Architecture' evil.html
sed -n 's/^<tr><th scope="row">\([^ ]*layers[^<]*\)<td>.*/\1/p' evil.html | sort -u
# ... and steer no terminal
for what in '' --tensors --layers --doctor --hash; do
	# shellcheck disable=SC2086
	gptq-inspect 'e<b>"' $what | tr -d '\n' | grep -c "$(printf '[\001-\037]')"
done
gptq-inspect 'e<b>"' | sed -n 2p
# where nothing can be written nothing is left
refused gptq-inspect "$Q" --html nowhere/page.html
mkdir folder
refused gptq-inspect "$Q" --html folder
only again.html 'e<b>"' evil.html folder full.html plain.html
