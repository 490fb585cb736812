# What running takes.  What is said of a dense model in 4 bits is what quantizing
# it gives, byte for byte, and of a quantized one what it is.
. "$ROOT/tests/cli/lib"
gptq-inspect "$Q" --memory
gptq-inspect "$Q" | grep memory
# sequences at once have a cache each
gptq-inspect "$Q" --memory --batch 600 | sed -n '2p;7,11p'
gptq-inspect "$Q" --json --batch 3 | grep -A 4 '"sequences"'
gptq-inspect "$Q" --batch 3 | grep memory
refused gptq-inspect "$Q" --memory --batch 0
four() {
	gptq-inspect "$1" --json >j.json
	json_ok j.json
	tr -d '\n ' <j.json |
		sed 's/.*"bits":4,"group_size":128,"bytes":\([0-9]*\)}.*/\1/'
	echo
}
bytes=$(gptq-inspect "$Q" --json | sed -n 's/^  "bytes": \([0-9]*\),$/\1/p')
[ "$(four "$T")" = "$bytes" ] || echo "dense: $(four "$T") and not $bytes"
[ "$(four "$Q")" = "$bytes" ] || echo "quantized: $(four "$Q") and not $bytes"
# no config, no cache
cp "$T/model.safetensors" alone.safetensors
gptq-inspect alone.safetensors --memory | head -n 3
gptq-inspect alone.safetensors --json | sed -n '/"memory"/,/"weights_with/p'
