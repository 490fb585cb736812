. "$ROOT/tests/cli/lib"
head -c 1200 "$TEXT" >text.txt
gptq-verify "$Q" --json --against "$T" --ppl text.txt --kld text.txt \
	--seqlen 128 --max-layer-error 0.01 --junit v.xml >v.json
echo "status $?"
json_ok v.json
sed -E 's/: -?[0-9.]+(e-?[0-9]+)?(,?)$/: N\2/; s/[0-9]+\.[0-9]+/N/g; s/model\.layers\.[a-z0-9_N.]+: /LAYER: /' v.json |
	awk '/"layers"/ {l = 1} /^  \]/ {l = 0} !l || n++ < 8'
grep -c '"cosine"' v.json
sed -E 's/model\.layers\.[a-z0-9_.]+: /LAYER: /; s/[0-9]+\.[0-9]+/N/g' v.xml
command -v xmllint >/dev/null && xmllint --noout v.xml
gptq-verify "$Q" --json --quiet >short.json
json_ok short.json
grep -E '"(perplexity|divergence|layers|kernels)"' short.json
