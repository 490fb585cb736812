. "$ROOT/tests/cli/lib"
gptq --version
gptq-run --version
# the features: names only, what stands behind them is the machine's
gptq --version -v | awk 'NR > 1 {print $1}'
gptq run --version -v | awk 'NR > 1 {print $1}' | tail -n 1
