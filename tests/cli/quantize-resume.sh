# What a resumed job trusts: nothing that its journal does not vouch for, and
# nothing of another job.
. "$ROOT/tests/cli/lib"
few="--samples 8 --seqlen 96 -t 2"
quantize() {
	# shellcheck disable=SC2086
	gptq-quantize "$M" -q -o q --calib "$T/calibration.txt" $few "$@"
}
# An unfinished job of at least so many linears, killed at once.
unfinished() {
	rm -f log
	# shellcheck disable=SC2086
	gptq-quantize "$M" -q -o q --calib "$T/calibration.txt" $few \
		--log log --resume >out 2>err &
	pid=$!
	until [ "$(wc -l 2>/dev/null <log || echo 0)" -ge "$1" ]; do
		kill -0 $pid 2>/dev/null || fail "ended early: $(cat err)"
		sleep 0.05
	done
	kill -9 $pid
	wait $pid 2>/dev/null # the shell may remark on it
}
same() {
	diff -r whole q && echo "the same bytes"
	[ ! -e .q.partial ] || echo "something is left"
	rm -r q
}
M=$T
quantize >out
mv q whole

echo "-- killed again and again, whatever it is doing"
for wait in 0.1 0.25 0.4 0.6 0.8 1.0 1.3 1.6; do
	# shellcheck disable=SC2086
	timeout -s KILL $wait gptq-quantize "$M" -q -o q --resume \
		--calib "$T/calibration.txt" $few >out 2>err
	[ ! -e q ] || break
done 2>/dev/null
# (the last one may still be about to die)
tries=0
while [ ! -e q ] && ! quantize --resume 2>err >out; do
	grep -q 'another run' err && [ $tries -lt 50 ] || fail "$(cat err)"
	tries=$((tries + 1))
	sleep 0.2
done
rm -rf .q.partial # if it was killed between the last rename and the end
same

echo "-- bytes of a block that was not done, and of what stays; a torn line"
unfinished 12
offset() { # of a tensor in the unfinished folder, in its file
	gptq-inspect .q.partial/out --tensor "$1" --json |
		sed -n "/\"name\": \"$1\"/,\$s/.*\"offset\": \([0-9]*\).*/\1/p" |
		head -n 1
}
for t in model.layers.5.mlp.down_proj.qweight lm_head.weight; do
	at=$(offset $t)
	[ "$at" ] || fail "no such tensor"
	head -c 20000 /dev/urandom |
		dd of=.q.partial/out/model.safetensors bs=1 seek="$at" \
			conv=notrunc 2>/dev/null
done
printf '{"block": 2, "linears": [{"na' >>.q.partial/journal
quantize --resume
same

echo "-- what a job is bound to"
unfinished 12
cp -r .q.partial kept
for o in "-b 3" "-g 64" --asym --desc-act --act-group-aware \
	"--desc-act --static-groups" "--damp-percent 0.02" \
	"--damp-auto-increment 0.02" --plain --no-true-sequential --lm-head \
	"--method gptaq" "--method rtn" "--format gptq_v2" \
	"--shard-size 1MB" "--rule .*k_proj:bits=8" "--samples 7" \
	"--seqlen 64" "--seed 3"; do
	# shellcheck disable=SC2086
	quantize --resume $o 2>err
	echo "$o: status $? $(head -n 1 err | sed 's/ in the unfin.*//' |
		cut -c 1-60)"
done
diff -r kept .q.partial || echo "the unfinished job was touched"
cp -r "$T" other
printf 'X' | dd of=other/model.safetensors bs=1 seek=4000001 conv=notrunc \
	2>/dev/null
M=other
quantize --resume 2>&1 | head -n 1 | cut -c 1-40
echo "-- weights that are gone"
rm other/model.safetensors
quantize --resume 2>&1 | sed -E 's/[0-9] blocks? (is|are)/N blocks are/'
cp "$T/model.safetensors" other/
quantize --resume # from another place, as the names are no part of it
same
rm -r kept

M=$T
echo "-- a disk that is full while it works"
mkdir small
unshare -m true 2>/dev/null || skip "no small file system can be mounted here"
export few
unshare -m sh -c '
	. "$ROOT/tests/cli/lib"
	mount -t tmpfs -o size=12m none small || exit
	cd small || exit
	run() {
		# shellcheck disable=SC2086
		gptq-quantize "$T" -q -o q --calib "$T/calibration.txt" $few "$@"
	}
	gptq-quantize "$T" -q -o q --calib "$T/calibration.txt" $few \
		--log ../log2 >../out 2>../err &
	pid=$!
	until [ "$(wc -l 2>/dev/null <../log2 || echo 0)" -ge 9 ]; do
		kill -0 $pid 2>/dev/null || fail "ended early: $(cat ../err)"
		sleep 0.05
	done
	cat /dev/zero >filler 2>/dev/null
	wait $pid
	echo "status $?"
	sed "s/[0-9] of 6/N of 6/" ../err
	rm filler
	run --resume
	diff -r ../whole q && echo "the same bytes"'
