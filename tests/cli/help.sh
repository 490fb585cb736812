# Every help page, and that it fits a terminal.
for a in quantize inspect repack verify run; do
	gptq-$a --help >$a
	cat $a
	echo "----"
	[ "$(wc -l <$a)" -le 60 ] || echo "$a: more than a screen"
	awk -v a=$a 'length($0) > 80 {print a ": wide line: " $0}' $a
	gptq $a -h | cmp - $a
done
