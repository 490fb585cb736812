# The examples of the man pages are real: each is run, page by page, in one
# directory, as a reader would.
ln -s "$ROOT/tests" tests
for page in "$ROOT"/man/*.1; do
	name=${page##*/}
	rm -rf q8 v2 qf dense wide q4 q3 qm qr qx qv qq shards
	sed -n '/^\.Sh EXAMPLES/,$s/^\$ //p' "$page" | sed 's/\\e/\\/g' >examples
	[ -s examples ] || echo "$name: no examples"
	while read -r line; do
		sh -c "$line" >out 2>err </dev/null || {
			echo "$name: status $?: $line"
			cat err
		}
		[ -s out ] || echo "$name: prints nothing: $line"
	done <examples
done
