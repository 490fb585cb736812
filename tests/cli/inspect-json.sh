. "$ROOT/tests/cli/lib"
gptq-inspect "$Q" --json >q.json
json_ok q.json
gptq-inspect "$T" --json >t.json
json_ok t.json
# the keys of the contract, at their level, in both
keys() {
	grep -o '^  "[a-z_]*"' "$1" | tr -d ' "' | tr '\n' ' '
	echo
}
keys q.json
keys t.json
gptq-inspect "$Q" --json --match 'layers\.0\.self_attn\.q_proj' >one.json
json_ok one.json
cat one.json
grep -A 12 '"quantization"' t.json | head -n 1
