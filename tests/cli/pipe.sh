# A reader that has seen enough is no error message; a full disk is one.
. "$ROOT/tests/cli/lib"
gptq-inspect "$Q" --tensors --json | head -n 1
gptq-inspect "$Q" --tensors | head -n 1
gptq-run "$T" -p Once -n 200 --temp 0 --ignore-eos | head -c 4
echo
# the writer begins when its reader has gone for sure
mkfifo gate
gone() {
	(cat gate >/dev/null && "$@"; echo "status $?" >&2) | { exec 0<&-; echo >gate; }
}
gone gptq-inspect "$Q" --tensors --json
gone gptq-inspect "$Q" --layers
gone gptq-run "$T" -p Once -n 200 --temp 0 --ignore-eos
gone gptq --list
gone gptq-repack "$Q" -o late -q
gptq-verify -q late >/dev/null && echo "late is whole"
if [ -e /dev/full ]; then
	gptq-inspect "$Q" >/dev/full
	echo "status $?"
	gptq-run "$T" -p Once -n 2 --temp 0 >/dev/full
	echo "status $?"
fi
# a closed standard output must not become a model's file
gptq-inspect "$Q" >&-
echo "status $?"
gptq-repack "$Q" -q -o r >&-
echo "status $?"
gptq-verify -q r >/dev/null && echo "r is whole"
