# The promise of --max-memory: the same bytes, a peak below the limit, or a
# refusal before anything is begun.
. "$ROOT/tests/cli/lib"
quantize() {
	gptq-quantize "$T" -q -o q --calib "$T/calibration.txt" --samples 64 \
		--seqlen 512 -t 2 --device cpu "$@"
}
number() { # KEY of the report
	sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" report
}
# what a sanitizer takes for itself counts, and how much that is varies
case $GPTQ_BIN in
*san) skip "sanitizers take memory of their own" ;;
esac
quantize --report report
mv q whole
limit=88080384 # 84 MiB
[ "$(number peak)" -gt $limit ] || echo "the limit is no limit"
quantize --max-memory 84MiB --report report >/dev/null
grep activations_in_file report
[ "$(number peak)" -le $limit ] || echo "too much: $(number peak)"
diff -r whole q && echo "the same bytes"
rm -r q
# not enough for anything: nothing is begun
refused quantize --max-memory 20MiB | sed -E 's/[0-9.]+ MiB/N MiB/g'
[ ! -e q ] && [ ! -e .q.partial ] || echo "something is left"
# the scratch file goes where TMPDIR says, and cannot be made
TMPDIR=$PWD/nowhere refused quantize --max-memory 84MiB
[ ! -e .q.partial ] || echo "something is left"
# interrupted under one limit, resumed under another
rm -f log
gptq-quantize "$T" -q -o q --calib "$T/calibration.txt" --samples 64 \
	--seqlen 512 --max-memory 84MiB --log log >out &
pid=$!
until [ "$(wc -l 2>/dev/null <log || echo 0)" -ge 12 ]; do
	kill -0 $pid 2>/dev/null || fail "ended early"
	sleep 0.05
done
kill -9 $pid
wait $pid 2>/dev/null
# the address space has a limit of its own, which is found out
(ulimit -v 220000 && quantize --resume)
diff -r whole q && echo "the same bytes"
rm -r q
# a machine of so much memory: a control group, inside this process's own, that
# kills what takes more; it is found out as well
own=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
group=/sys/fs/cgroup/memory$own/gptq-test-$$
mkdir "$group" 2>/dev/null && echo 100M >"$group/memory.limit_in_bytes" ||
	skip "no control group can be made here"
# shellcheck disable=SC2016
sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh "$group" \
	gptq-quantize "$T" -q -o q --calib "$T/calibration.txt" --samples 64 \
	--seqlen 512 -t 2 --device cpu
diff -r whole q && echo "the same bytes"
rmdir "$group"
