# What is not there yet ends with status 4 and a plain sentence.
. "$ROOT/tests/cli/lib"
refused gptq-run "$Q" --bench --batch 2
only
