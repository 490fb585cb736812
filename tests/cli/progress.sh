# Long work shows progress on stderr: a bar on a terminal, nothing with -q,
# never on stdout.
. "$ROOT/tests/cli/lib"
need_terminal
export TERM=xterm
head -c 500 "$TEXT" >text.txt
# the reference device is slow enough on every machine
job="gptq-verify $T --ppl text.txt --seqlen 64 --device ref"
script -qec "$job >out" /dev/null </dev/null >tty.err
grep -q 'left' tty.err || echo "no bar on a terminal"
grep -q "$(printf '\r')" tty.err || echo "the bar does not stand in place"
# at the end the bar is wiped away
tail -c 4 tty.err | od -An -c
script -qec "$job -q >quiet.out" /dev/null </dev/null
# (the last bracket is the time)
sed 's/([^()]*)$//' out >a
sed 's/([^()]*)$//' quiet.out | cmp - a
