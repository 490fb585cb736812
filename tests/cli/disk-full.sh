# Without room there is one line, status 5 with numbers, and nothing left.
. "$ROOT/tests/cli/lib"
few="--calib $T/calibration.txt --samples 2 --seqlen 64"
# a limit on the size of files is there for everybody
# shellcheck disable=SC2086
(
	ulimit -f 1000
	refused gptq-quantize "$T" -q -o q $few
	refused gptq-repack "$Q" -q -o r
	refused gptq-run "$T" -q -p "$(head -c 600 "$TEXT")" -n 0 \
		--logits logits.st
) 2>&1 | sed -E 's/[0-9]+ bytes/N bytes/'
only
# a log that has no room spoils nothing of the work
[ -e /dev/full ] || skip "no /dev/full here"
# shellcheck disable=SC2086
{
	gptq-quantize "$T" -q -o q $few --log /dev/full 2>log.err
	echo "status $?"
	cat log.err
	gptq-quantize "$T" -q -o q $few --resume
}
rm -r q log.err
only
# a file system that is too small wants a superuser
mkdir small
unshare -m sh -c 'mount -t tmpfs -o size=2m none small && mkdir small/d' \
	2>/dev/null || skip "no small file system can be mounted here"
# shellcheck disable=SC2086
unshare -m sh -c '
	. "$ROOT/tests/cli/lib"
	mount -t tmpfs -o size=2m none small
	cd small
	gptq-quantize "$T" -q -o q '"$few"' >/dev/null 2>../1.err
	echo "status $?"
	gptq-repack "$Q" -q -o r >/dev/null 2>../2.err
	echo "status $?"
	only'
for e in 1.err 2.err; do
	[ "$(wc -l <$e)" -eq 1 ] || echo "not one line"
	sed -E 's/[0-9]+(\.[0-9]+)?/N/g; s/(shard N of N|model[^:]*)//' $e
done
