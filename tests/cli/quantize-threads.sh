# Equal inputs and options give byte-equal folders, for any number of threads.
. "$ROOT/tests/cli/lib"
for t in 1 2 3; do
	gptq-quantize "$T" -q -o q$t --calib "$T/calibration.txt" \
		--samples 4 --seqlen 96 --desc-act -g 64 -t $t
done
diff -r q1 q2
diff -r q1 q3
gptq-repack q1 -q -t 1 -o r1 --to gptq_v2
gptq-repack q1 -q -t 2 -o r2 --to gptq_v2
diff -r r1 r2
