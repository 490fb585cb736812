. "$ROOT/tests/cli/lib"
gptq-inspect "$T"
gptq-inspect "$Q"
gptq-inspect "$Q" --files
gptq-inspect "$Q" --layers --match '\.3\.|head'
gptq-inspect "$Q" --tensors --match '^model\.layers\.5\.mlp\.up'
gptq-inspect "$T/model.safetensors"
gptq-inspect "$Q" --doctor
echo "status $?"
# the path goes on, the report stands aside
gptq-inspect "$Q" -P --files 2>report
cat report
echo "$Q" | gptq-inspect - -P 2>/dev/null
refused gptq-inspect "$Q" -P --json
refused gptq-inspect "$Q" --layers --match '('
refused gptq-inspect nowhere
refused gptq-inspect /dev/null
mkdir empty
refused gptq-inspect empty
echo hello >text
refused gptq-inspect text
gptq-inspect - </dev/null
echo "status $?"
# a name that nothing has
gptq-inspect "$Q" --layers --match nothing 2>&1
