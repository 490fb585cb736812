# kill -9 in the middle leaves no folder of the final name; the next run works.
. "$ROOT/tests/cli/lib"
start() {
	rm -f log
	"$@" -q -o q --calib "$T/calibration.txt" --samples 32 --seqlen 256 \
		--log log >out 2>err &
	pid=$!
	# the first linear is done when the log has its line
	while [ "$(wc -l 2>/dev/null <log || echo 0)" -lt 2 ]; do
		kill -0 $pid 2>/dev/null || fail "ended early: $(cat err)"
		sleep 0.05
	done
	[ -n "$(ls -Ad .q.tmp-*)" ] || echo "no temporary folder on the way"
	[ ! -e q ] || echo "the folder has its name already"
}
start gptq-quantize "$T"
kill -9 $pid
wait $pid 2>/dev/null # the shell may remark on it
echo "status $?"
ls -d q 2>/dev/null
rm -rf .q.tmp-*
# asked to stop, it cleans up after itself
start gptq-quantize "$T"
kill -TERM $pid
wait $pid
echo "status $?"
cat out err
only err log out
if env --default-signal=INT true 2>/dev/null; then
	# (a shell's background jobs ignore Ctrl-C otherwise)
	start env --default-signal=INT gptq-quantize "$T"
	kill -INT $pid
	wait $pid
	[ $? -eq 130 ] || echo "Ctrl-C gave another status"
	only err log out
fi
gptq-quantize "$T" -q -o q --calib "$T/calibration.txt" --samples 2 \
	--seqlen 64
gptq-verify q -q >/dev/null && echo "q is whole"
