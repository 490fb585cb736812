# kill -9 leaves no folder of the final name; --resume makes the same bytes as
# a run that nobody disturbed.
. "$ROOT/tests/cli/lib"
common="-q -o q --calib $T/calibration.txt --samples 16 --seqlen 192 --desc-act
--lm-head --log log --shard-size 1MB"
quantize() {
	# shellcheck disable=SC2086
	gptq-quantize "$T" $common "$@"
}
# Run in the background, $more behind the options and "$@" before the command,
# until the log has so many lines.
start() {
	lines=$1
	shift
	rm -f log
	# shellcheck disable=SC2086
	"$@" gptq-quantize "$T" $common $more >out 2>err &
	pid=$!
	while [ "$(wc -l 2>/dev/null <log || echo 0)" -lt "$lines" ]; do
		kill -0 $pid 2>/dev/null || fail "ended early: $(cat err)"
		sleep 0.05
	done
	[ ! -e q ] || echo "the folder has its name already"
}
stop() {
	kill "$1" $pid
	wait $pid 2>/dev/null # the shell may remark on it
	status=$?
}
quantize >out
mv q whole
mv log whole.log
# killed again and again: in the first block, further on, in the last
more=--resume
for lines in 4 20 42; do
	start "$lines"
	stop -9
	ls -A .q.partial
done
[ "$(grep -c linears .q.partial/journal)" -ge 5 ] || echo "no blocks are done"
quantize --resume -t 1
diff -r whole q && echo "the same bytes"
[ ! -e .q.partial ] || echo "something is left"
# the log is whole too, but for the times
cut -d, -f1-6 log >a
cut -d, -f1-6 whole.log | diff - a
rm -r q
# asked to stop, it says how to go on
more=
start 12
stop -TERM
echo "status $status"
sed 's/[0-9] of 7/N of 7/' err
cat out
# what is there is neither lost nor mixed with something else
refused quantize | sed 's/[0-9] blocks\{0,1\}/N blocks/'
quantize --resume -b 3 2>&1 | sed 's/[0-9] of 7/N of 7/'
quantize --resume --no-true-sequential 2>&1 | head -n 1
quantize --resume --seed 1 2>&1 | head -n 1 | cut -c 1-60
quantize --resume --rule '.*q_proj:bits=8' 2>&1 | head -n 1 | cut -c 1-60
# other weights
cp -r "$T" other
sed 's/"rms_norm_eps": 1e-05/"rms_norm_eps": 1e-06/' "$T/config.json" \
	>other/config.json
T=other
quantize --resume 2>&1 | head -n 1 | cut -c 1-50
T=$ROOT/tests/models/tiny
# a shard of the unfinished folder that is gone, or is not what it was
mkdir kept
cp -r .q.partial kept/
rm .q.partial/out/model-00001-of-*
quantize --resume 2>&1 | sed 's/-of-.*: cannot/: cannot/;s/[0-9] of 7/N of 7/'
cp kept/.q.partial/out/model-00001-of-* .q.partial/out/
for f in .q.partial/out/model-*; do
	printf 'XXXXXXXX' | dd of="$f" bs=1 seek=40000 conv=notrunc 2>/dev/null
done
quantize --resume 2>&1 | head -n 1 | sed 's/: model\..*: other/: LINEAR: other/'
rm -r .q.partial kept
# --force begins anew
start 12
stop -9
quantize --force
diff -r whole q && echo "the same bytes again"
rm -r q
if env --default-signal=INT true 2>/dev/null; then
	# (a shell's background jobs ignore Ctrl-C otherwise)
	start 12 env --default-signal=INT
	stop -INT
	[ "$status" -eq 130 ] || echo "Ctrl-C gave another status"
	[ -d .q.partial ] || echo "nothing is kept"
fi 2>/dev/null
# two runs of one output: the second is refused
rm -rf q .q.partial
start 4
refused quantize --resume | sed 's/ (.*//'
stop -9
