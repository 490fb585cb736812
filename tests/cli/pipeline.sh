# The whole job as one line, each step passing the model's path to the next.
. "$ROOT/tests/cli/lib"
head -c 3000 "$TEXT" >text.txt
gptq-quantize "$T" -q -o q --calib "$T/calibration.txt" --samples 8 \
	--seqlen 256 |
	gptq-verify - -q --against "$T" --ppl text.txt --seqlen 256 --max-ppl-ratio 1.2 -P |
	gptq-run - -p 'Once' -n 20 --temp 0 >text
[ "$(wc -c <text)" -gt 20 ] || echo "no text"
gptq-run q -p 'Once' -n 20 --temp 0 | cmp - text
# a gate that closes ends the line: nothing is run
gptq-quantize "$T" -q -o bad --method rtn -b 2 -g 32 |
	gptq-verify - -q --against "$T" --ppl text.txt --seqlen 256 --max-ppl-ratio 1.2 -P 2>report |
	gptq-run - -p 'Once' -n 20 --temp 0
echo "status $?"
grep -c FAIL report
# a step that fails earlier too
gptq-quantize nowhere -o r --method rtn 2>/dev/null | gptq-verify - -P
echo "status $?"
