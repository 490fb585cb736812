# Ctrl-C ends the answer, not the chat.  Greedy: an answer by chance may say
# what ends it, or what looks like a prompt.
. "$ROOT/tests/cli/lib"
need_terminal
env --default-signal=INT true 2>/dev/null || skip "env cannot restore signals here"
mkfifo keys
env --default-signal=INT script -qefc "gptq-run '$T' --chat --chat-template chatml --ignore-eos --temp 0 -c 32000" \
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
asked() { # COUNT: so many prompts are on the screen
	[ "$(grep -aoE '(^|\n)> ' screen | wc -l)" -ge "$1" ]
}
longer() { # BYTES
	[ "$(wc -c <screen)" -gt "$1" ]
}
wait_for asked 1
printf 'Hello\n' >&3
wait_for longer $(($(wc -c <screen) + 200))
printf '\003' >&3
wait_for asked 2
printf 'Again\n' >&3
wait_for longer $(($(wc -c <screen) + 200))
printf '\003' >&3
wait_for asked 3
printf '\004' >&3
wait $chat
echo "status $?"
