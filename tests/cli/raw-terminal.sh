# Raw bytes do not go to a terminal.
. "$ROOT/tests/cli/lib"
need_terminal
TERM=xterm script -qec \
	"gptq-inspect $T --tensor model.norm --raw; echo status \$?" \
	/dev/null </dev/null >tty
grep -c 'would fill the terminal' tty
