# Every kernel of the CPU on the linears of a quantized and of a dense model.
. "$ROOT/tests/cli/lib"
errors() { sed -E 's/[0-9]\.[0-9]e-[0-9]+( \([a-z0-9-]*\))?/E/; s/error  *[0-9].*E/error E/'; }
gptq-verify "$Q" --kernels --device ref | errors
gptq-verify "$T" --kernels --device cpu | errors
# this machine's own: at least the generic one, the optimised ones if it can
gptq-verify "$Q" --kernels --device cpu --json >k.json
grep -c '"name": "generic-b4' k.json
