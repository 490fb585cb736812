# With --json stdout is one JSON document, also when the answer is "failed".
. "$ROOT/tests/cli/lib"
n=0
try() { # STATUS COMMAND...
	want=$1
	shift
	"$@" >out.json 2>err
	got=$?
	[ $got -eq "$want" ] || echo "status $got, not $want: $*"
	json_ok out.json
	n=$((n + 1))
	echo "$n: $(grep '"code"' out.json | tr -d ' ') $(grep -c . err)"
}
try 2 gptq-inspect --json
try 2 gptq-inspect "$T" --jsno --json
try 2 gptq-run "$T" --json --tokens
try 3 gptq-inspect nowhere --json
try 3 gptq-verify nowhere --json
try 3 gptq-repack nowhere -o r --json
try 3 gptq-quantize nowhere -o r --method rtn --json
try 3 gptq-run nowhere -p x --json
try 4 gptq-run "$T" --chat --json
try 4 gptq-quantize "$Q" -o r --method rtn --json
try 4 gptq-repack "$T" -o r --to gptq --json
try 1 gptq-verify "$Q" --against "$T" --max-layer-error 0 --json
mkdir exists
try 2 gptq-repack "$Q" -o exists --json
cat out.json
# bytes that are no UTF-8 in a path
try 3 gptq-inspect "$(printf 'no\377where')" --json
