. "$ROOT/tests/cli/lib"
chat() {
	gptq-run "$T" --chat --chat-template alpaca --temp 0 "$@"
}
# one message, and a message a line; the first answers are the same
chat -n 6 -p 'What is a day?' >one
printf 'What is a day?\n\nAnd a \\\nnight?' | chat -n 6 >two
cat two
head -n 1 two | cmp - one
# the cache is kept: a second message costs its own tokens
printf 'What is a day?\nAnd a night?\n' | chat -n 6 --json >r.json
json_ok r.json
grep -E 'message|prompt_tokens|stop_reason|template' r.json
# and the second answer is the one to all of it from the start
ids_of() { # TURN: those of its answer
	tr -d ' \n' <r.json | sed 's/"ids":\[/\n&/g' | sed -n "$(($1 + 1))s/\"ids\":\[\([0-9,]*\).*/\1/p"
}
all="$(gptq-run "$T" --chat --chat-template alpaca --tokenize \
	-p 'What is a day?') $(ids_of 1) 2 $(printf \
	'### Instruction:\nAnd a night?\n\n### Response:\n' |
	gptq-run "$T" --tokenize --no-bos)"
cp r.json two.json
gptq-run "$T" --ids "$all" -n 6 --temp 0 --json >r.json
whole=$(ids_of 1)
cp two.json r.json
[ "$whole" = "$(ids_of 2)" ] || echo "another answer: $whole, not $(ids_of 2)"
# what a template makes of a message
gptq-run "$T" --chat --chat-template vicuna --system 'Be brief.' --tokenize \
	-p 'Hello' | tee ids | wc -w
gptq-run "$T" --detokenize <ids
echo
# a full context forgets the oldest turns
printf 'What is a day?\nAnd a night?\nAnd a year?\nAnd so on?\n' |
	chat -n 4 -c 128 2>&1 >/dev/null
refused chat -c 20 -p 'What is a day?'
# a stop text is not part of the conversation
printf 'a\nb\n' | chat -n 40 --stop a --json | grep -E 'text"|stop_reason'
# the model's own template
cp -r "$T" m
chmod -R u+w m
cat >m/chat_template.jinja <<'END'
{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}
END
gptq-run m --chat -p Hello -n 4 --temp 0 -v 2>&1 >/dev/null | grep template
echo "{{ 'who knows' }}" >m/chat_template.jinja
gptq-run m --chat -p Hello
echo "status $?"
gptq-run "$T" --chat -p Hello
echo "status $?"
refused chat --ids 1
refused chat --logits x
refused chat --detokenize
refused chat --bench
refused gptq-run "$T" --system x -p y
refused gptq-run "$T" --chat --chat-template klingon -p x
# a message is not cut at a NUL
printf 'a\000b\n' >nul
chat <nul
echo "status $?"
refused chat -f nul
refused gptq-run "$T" --chat --chat-template alpaca --tokenize -f nul
