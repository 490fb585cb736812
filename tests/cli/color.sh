. "$ROOT/tests/cli/lib"
escapes() { # the number of lines with an escape
	grep -c "$(printf '\033')" "$1"
}
gptq-inspect "$T" >plain
escapes plain
gptq-inspect "$T" --color=always >always
[ "$(escapes always)" -gt 3 ] || echo "--color=always has none"
NO_COLOR=1 gptq-inspect "$T" --color=always >forced
cmp always forced
sed "s/$(printf '\033')\[[0-9]*m//g" always | cmp - plain
need_terminal
# on a terminal: colours, unless NO_COLOR, --color=never or a dumb terminal
tty() {
	script -qec "$*" /dev/null </dev/null >tty.out
	escapes tty.out
}
export TERM=xterm
tty "gptq-inspect $T" >n
[ "$(cat n)" -gt 3 ] || echo "no colour on a terminal"
NO_COLOR=1 tty "gptq-inspect $T"
tty "gptq-inspect $T --color=never"
TERM=dumb tty "gptq-inspect $T"
