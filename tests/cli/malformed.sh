# Every malformed sample: no crash, one line, status 3 (or 1 where verify gives
# a verdict); well-formed ones pass.
. "$ROOT/tests/cli/lib"
for f in "$ROOT"/tests/golden/malformed/*/*.safetensors; do
	case_name=${f%/*}
	case_name=${case_name##*/}
	gptq-inspect "$f" >out 2>err
	i=$?
	gptq-verify "$f" >vout 2>verr
	v=$?
	n=$(cat err verr | wc -l | tr -d ' ')
	echo "$case_name: inspect $i, verify $v, lines on stderr $n"
	grep -aE 'Sanitizer|runtime error|ssertion' err verr
done
exit 0
