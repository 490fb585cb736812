# Long work shows progress on stderr: lines in a file, a bar on a terminal,
# nothing with -q, never on stdout.
. "$ROOT/tests/cli/lib"
command -v script >/dev/null || skip "no script(1) here"
export TERM=xterm
job="gptq-quantize $T --calib $T/calibration.txt --samples 96 --seqlen 256"
script -qec "$job -o a" /dev/null </dev/null >tty.out
grep -q 'left' tty.out || echo "no bar on a terminal"
grep -q "$(printf '\r')" tty.out || echo "the bar does not stand in place"
tail -n 2 tty.out | tr -d '\r' | sed "s/.*$(printf '\033')\[K//" |
	sed -E 's/: 11.*/: SIZES/' | sort
script -qec "$job -q -o b" /dev/null </dev/null | tr -d '\r'
diff -r a b
