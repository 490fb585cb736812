# A directory that cannot be written: one line, status 6.
. "$ROOT/tests/cli/lib"
mkdir sealed
chmod 555 sealed
plain=
if [ "$(id -u)" = 0 ]; then
	# a superuser may write everywhere: become somebody else
	plain="setpriv --reuid=65534 --regid=65534 --clear-groups"
	chmod 755 .
	$plain test -r "$Q/config.json" 2>/dev/null &&
		$plain test -x "$GPTQ_BIN/gptq" ||
		skip "nobody else can read the files here"
fi
# shellcheck disable=SC2086
{
	$plain gptq-quantize "$T" -o sealed/q --method rtn
	echo "status $?"
	$plain gptq-repack "$Q" -o sealed/r
	echo "status $?"
	$plain gptq-verify "$Q" --junit sealed/report.xml
	echo "status $?"
}
ls -A sealed
