. "$ROOT/tests/cli/lib"
status gptq
refused gptq inspct x
refused gptq wrong-altogether
refused gptq --lst
refused gptq help verfy
refused gptq --completion
refused gptq --completion tcsh
gptq help run | head -n 1
gptq --help
