# Ctrl-C ends the answer, not the chat.  The mistral form: its answers end with
# a token, which --ignore-eos takes away, so that only Ctrl-C can end them (a
# form that ends in a text may be given that text by chance).  exec: a shell
# between the terminal and the program would take Ctrl-C as meant for itself
# and end with 130 when the program has ended well.
. "$ROOT/tests/cli/lib"
need_terminal
env --default-signal=INT true 2>/dev/null || skip "env cannot restore signals here"
mkfifo keys
env --default-signal=INT script -qefc \
	"exec gptq-run '$T' --chat --chat-template mistral --ignore-eos --temp 0 -c 32000" \
	/dev/null <keys >screen 2>&1 &
chat=$!
trap 'kill $chat 2>/dev/null' EXIT
exec 3>keys
wait_for() { # COMMAND...: until it succeeds
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		[ "$tries" -lt 1200 ] || fail "never: $*"
		sleep 0.1
	done
}
size() {
	wc -c <screen
}
asked() { # the screen ends in a prompt, and stays so
	[ "$(tail -c 2 screen)" = '> ' ] || return
	was=$(size)
	sleep 0.5
	[ "$(size)" -eq "$was" ]
}
longer() { # BYTES
	[ "$(size)" -gt "$1" ]
}
for message in Hello Again; do
	wait_for asked
	printf '%s\n' "$message" >&3
	wait_for longer $(($(size) + 200))
	printf '\003' >&3
done
wait_for asked
printf '\004' >&3
wait $chat
echo "status $?"
