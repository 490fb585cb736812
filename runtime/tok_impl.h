/* tok_impl.h - what the files of the tokenizer share; nobody else includes it.
 *
 *	tok.c          open, special ids, encode and its BOS/EOS
 *	tok_stream.c   decode, whole and streaming, for both kinds
 *	tok_dict.c     growing bytes, the pieces by id, their index by text
 *	tok_utf8.c     characters of UTF-8, broken bytes, white space
 *	tok_merge.c    the BPE merge loop of both kinds
 *	tok_trie.c     longest literal at a place: added and user-defined pieces
 *	tok_spm.c      SentencePiece: load; tok_spm_run.c: encode, decode
 *	tok_proto.c    its file; tok_charsmap.c: its compiled normalizer
 *	tok_json.c     tokenizer.json: load; tok_added.c: its added tokens
 *	tok_norm.c tok_pre.c tok_bpe.c tok_dec.c    its four stages
 *	tok_regex.c    Oniguruma's patterns on PCRE2; tok_search.c: matching
 *	tok_nfc.c      NFC; tok_*_data*.c: tables of Unicode data
 *
 * Everything in struct tok is written by tok_open and only read after it; all
 * that a call changes is in its own struct tok_work or struct tok_dec. */
#ifndef RUNTIME_TOK_IMPL_H
#define RUNTIME_TOK_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;
struct err;
struct tok;

#define TOK_NONE UINT32_MAX            /* no id, no rank, no node */
#define TOK_ID_MAX (1u << 24)          /* ids are below this */
#define TOK_PIECE_MAX 4096u            /* bytes of one piece, added token */
#define TOK_TEXT_MAX ((size_t)1 << 29) /* bytes of text in one call */
#define TOK_BUF_MAX UINT32_MAX         /* bytes of it on the way */
#define TOK_FILE_MAX (256ull << 20)    /* bytes of a tokenizer file */
#define TOK_STEPS 16                   /* steps in one stage of a pipeline */
#define TOK_CHARS 0x3000u              /* code points with a direct id table */
/* Symbols that never merge have the top bit: TOK_NONE is an unknown character,
 * anything else a user-defined piece. */
#define TOK_FROZEN 0x80000000u

/* ---- tok_dict.c ---- */

/* A stretch of text.  first: it starts where the whole text starts. */
struct tok_span {
	const char *s;
	size_t n;
	bool first;
};

/* A growing run of bytes; zeroed is empty. */
struct tok_buf {
	char *p;
	size_t len, cap;
};

int tok_buf_room(struct tok_buf *b, size_t more, struct err *err);
int tok_buf_add(struct tok_buf *b, const char *s, size_t n, struct err *err);
void tok_buf_release(struct tok_buf *b);

/* The pieces by id.  len 0: no piece has this id. */
struct tok_piece {
	uint32_t off, len; /* in text */
};
struct tok_dict {
	struct tok_buf text;
	struct tok_piece *piece; /* [n] */
	size_t n, cap;
	uint32_t longest; /* bytes of the longest piece */
};

int tok_dict_put(struct tok_dict *d, uint32_t id, const char *s, size_t n,
		 struct err *err);
const char *tok_dict_text(const struct tok_dict *d, uint32_t id);
void tok_dict_release(struct tok_dict *d);

/* Ids by text: open addressing over hash << 32 | id + 1. */
struct tok_index {
	uint64_t *slot; /* [mask + 1] */
	size_t mask, n;
};

int tok_index_init(struct tok_index *ix, size_t n, struct err *err);
/* 1: the text is there already (nothing is changed), 0: added. */
int tok_index_add(struct tok_index *ix, const struct tok_dict *d, uint32_t id,
		  struct err *err);
uint32_t tok_index_find(const struct tok_index *ix, const struct tok_dict *d,
			const char *s, size_t n);
void tok_index_release(struct tok_index *ix);

/* ---- tok_utf8.c ---- */

#define TOK_FFFD "\xef\xbf\xbd" /* the replacement character, 3 bytes */

/* The character at s[0..n), n > 0: its bytes, or 0 when it is broken. */
unsigned tok_utf8(const char *s, size_t n, uint32_t *cp);
unsigned tok_utf8_put(uint32_t cp, char out[4]);
/* Bytes that one U+FFFD stands for when s is broken (the longest beginning of
 * a character, at least one). */
unsigned tok_utf8_bad(const char *s, size_t n);
/* s[0..n) is the beginning of a character, cut off. */
bool tok_utf8_cut(const char *s, size_t n);
bool tok_utf8_valid(const char *s, size_t n);
/* Append s with each broken part as U+FFFD, as Rust and Python decode. */
int tok_utf8_mend(const char *s, size_t n, struct tok_buf *out,
		  struct err *err);
bool tok_space(uint32_t cp); /* Unicode White_Space */
size_t tok_spaces_front(const char *s, size_t n);
size_t tok_spaces_back(const char *s, size_t n);
/* "<0x41>" is 0x41; -1: not spelled so.  Lower-case digits only where `any`. */
int tok_byte_piece(const char *s, size_t n, bool any);

/* ---- Unicode data, written by tests/ref/{nfc_tables,new_chars}.py ---- */

/* Characters from .. to, and what the table says of them. */
struct tok_new {
	uint32_t from, to, like;
};
extern const struct tok_new tok_new[], tok_nfc_run[], tok_nfc_class[];
extern const uint32_t tok_nfc_pair[], tok_nfc_to[]; /* pair: [n][3] */
extern const uint16_t tok_nfc_order[];
extern const size_t tok_new_n, tok_nfc_run_n, tok_nfc_class_n, tok_nfc_pair_n,
	tok_nfc_to_n, tok_nfc_order_n;

/* The row that has cp, or NULL. */
const struct tok_new *tok_new_find(const struct tok_new *row, size_t n,
				   uint32_t cp);

/* ---- tok_merge.c ---- */

/* left, right -> piece, and how early: by rank, then from the left. */
struct tok_pair {
	uint64_t key; /* ~(left << 32 | right); 0: free */
	uint32_t rank, id;
};
struct tok_merges {
	struct tok_pair *slot; /* [mask + 1] */
	size_t mask;
	uint64_t *join; /* keys of neighbours that some merge brings together */
	size_t join_mask;
	bool whole; /* never cut a text into segments */
};

int tok_merges_init(struct tok_merges *m, size_t pairs, struct err *err);
void tok_merges_add(struct tok_merges *m, uint32_t left, uint32_t right,
		    struct tok_pair to);
/* A merge has the character `left` right before the character `right`. */
void tok_merges_join(struct tok_merges *m, uint32_t left, uint32_t right);
bool tok_merges_joined(const struct tok_merges *m, uint32_t left,
		       uint32_t right);
void tok_merges_release(struct tok_merges *m);

/* A symbol of the segment in work. */
struct tok_sym {
	uint32_t id, len;    /* len: bytes of text; 0: merged away */
	uint32_t rank, to;   /* of the pair with the next symbol */
	uint32_t prev, next; /* TOK_NONE at the ends */
};

/* Merge w->sym[0..w->n) to the end, in place; w->n shrinks. */
struct tok_work;
int tok_merge(const struct tok_merges *m, struct tok_work *w, struct err *err);

/* ---- tok_trie.c ---- */

struct tok_trie {
	uint32_t root[256]; /* child of the root, TOK_NONE: none */
	uint64_t *edge;     /* (node << 8 | byte) << 32 | child; 0: free */
	size_t mask, edges;
	uint32_t *value; /* [n] of each node, TOK_NONE: not an end */
	size_t n, cap;
};

int tok_trie_init(struct tok_trie *t, struct err *err);
/* The first value for a text stays. */
int tok_trie_add(struct tok_trie *t, const char *s, size_t n, uint32_t value,
		 struct err *err);
/* Length of the longest entry that s begins with, 0: none. */
size_t tok_trie_find(const struct tok_trie *t, const char *s, size_t n,
		     uint32_t *value);
void tok_trie_release(struct tok_trie *t);

/* ---- tok_regex.c ---- */

struct pcre2_real_code_8;
struct tok_match; /* the scratch of one call */

/* A literal or a pattern in Oniguruma's Ruby syntax. */
struct tok_pattern {
	char *text; /* the literal; NULL: re */
	size_t len;
	struct pcre2_real_code_8 *re; /* a pcre2_code */
};

int tok_pattern_literal(struct tok_pattern *p, const char *text,
			struct err *err);
int tok_pattern_regex(struct tok_pattern *p, const char *text,
		      struct err *err);
/* { "String": x } or { "Regex": x } */
int tok_pattern_json(struct tok_pattern *p, const struct cJSON *j,
		     struct err *err);
/* A word character as Rust's regex crate has it. */
int tok_pattern_word(struct tok_pattern *p, struct err *err);
void tok_pattern_release(struct tok_pattern *p);

/* The matches of a pattern in valid UTF-8, from left to right. */
struct tok_search {
	const struct tok_pattern *p;
	struct tok_match **scratch;
	struct tok_span text;
	size_t from, last; /* where to go on; end of the last match */
	bool matched;
	size_t start, end; /* the match found */
	char *shadow;      /* the text with new characters as old ones */
};

/* 1: found, 0: no more, -1: failed.  Who stops before that calls the end. */
int tok_search_next(struct tok_search *f, struct err *err);
void tok_search_end(struct tok_search *f);
void tok_match_free(struct tok_match *m); /* accepts NULL */

/* ---- the steps of tokenizer.json ---- */

enum tok_norm_kind { TOK_NORM_PREPEND, TOK_NORM_REPLACE, TOK_NORM_NFC };

struct tok_norm {
	enum tok_norm_kind kind;
	struct tok_pattern pattern;
	char *content;
	size_t len;
};

enum tok_pre_kind { TOK_PRE_SPLIT, TOK_PRE_BYTES, TOK_PRE_META };
enum tok_cut {
	TOK_CUT_ISOLATED,
	TOK_CUT_REMOVED,
	TOK_CUT_CONTIGUOUS,
	TOK_CUT_PREVIOUS,
	TOK_CUT_NEXT
};
enum tok_scheme { TOK_ALWAYS, TOK_FIRST, TOK_NEVER };

struct tok_pre {
	enum tok_pre_kind kind;
	struct tok_pattern pattern; /* bytes: unset without use_regex */
	enum tok_cut cut;
	bool invert;
	bool prefix_space;      /* bytes */
	bool split;             /* meta */
	enum tok_scheme scheme; /* meta: when to put the mark in front */
	char mark[4];           /* meta: what stands for a space */
	size_t mark_len;
};

enum tok_dec_kind {
	TOK_DEC_REPLACE,
	TOK_DEC_FALLBACK,
	TOK_DEC_FUSE,
	TOK_DEC_STRIP,
	TOK_DEC_BYTES,
	TOK_DEC_META,
	TOK_DEC_SPACED /* no decoder: tokens with spaces between */
};

struct tok_dec_step {
	enum tok_dec_kind kind;
	bool fused; /* what arrives is one token in fragments */
	struct tok_pattern pattern;
	char *content; /* what replaces */
	size_t len;
	uint32_t cp; /* strip: this character; meta: the mark */
	uint32_t start, stop;
	bool keep_first; /* meta: the first token's marks are spaces too */
};

struct tok_added {
	uint32_t id;
	bool single_word, lstrip, rstrip, normalized, special;
};

/* tokenizer.json */
struct tok_bpe {
	struct tok_norm norm[TOK_STEPS];
	struct tok_pre pre[TOK_STEPS];
	struct tok_dec_step dec[TOK_STEPS];
	unsigned norms, pres, decs;
	struct tok_added *added; /* by order in the file */
	size_t n_added, added_cap;
	uint32_t *added_of; /* [ids] index in added, or TOK_NONE */
	size_t n_added_of, added_of_cap;
	struct tok_index extra;      /* added tokens that are no pieces */
	struct tok_trie raw, normal; /* values: indices of added */
	struct tok_dict shown;       /* normalized spelling, by added index */
	struct tok_pattern word;     /* a word character, for single_word */
	uint32_t byte_id[256];       /* "<0x00>".. or TOK_NONE */
	uint32_t unk;                /* TOK_NONE: unknown characters vanish */
	bool has_unk, byte_fallback, fuse_unk, ignore_merges;
	bool bytes_fall; /* all 256 pieces are there */
};

/* tokenizer.model */
enum tok_type {
	TOK_NORMAL = 1,
	TOK_UNKNOWN = 2,
	TOK_CONTROL = 3,
	TOK_USER = 4,
	TOK_UNUSED = 5,
	TOK_BYTE = 6
};

/* A compiled normalizer: double-array trie over a blob of C strings. */
struct tok_charsmap {
	uint8_t *mem; /* units as little-endian u32, then the blob */
	size_t units;
	const char *text;
	size_t text_len;
};

struct tok_spm_norm {
	struct tok_charsmap map;
	bool dummy_prefix, squeeze, escape; /* squeeze: remove extra spaces */
};

struct tok_spm {
	uint8_t *type; /* [pieces] enum tok_type */
	float *score;  /* [pieces], freed when loaded */
	uint32_t pieces;
	struct tok_index reserved; /* unknown, control and byte pieces */
	struct tok_trie user;
	bool has_user, has_unused, has_denorm;
	bool byte_fallback, suffix; /* suffix: the dummy goes behind */
	struct tok_spm_norm norm, denorm;
	uint32_t unk, byte_id[256];
	char *unk_surface, *bos_piece, *eos_piece;
};

struct tok {
	struct tok_dict dict;    /* pieces and added tokens */
	struct tok_index index;  /* all; spm: what text can merge to */
	struct tok_merges merge;
	uint32_t *char_id;       /* [TOK_CHARS] pieces of one character */
	struct tok_bpe *bpe;     /* exactly one of the two is set */
	struct tok_spm *spm;
	uint32_t vocab;
	int64_t bos, eos;
	uint32_t *head, *tail;   /* what TOK_BOS puts around the text */
	size_t n_head, n_tail, head_cap, tail_cap;
};

/* What one call of tok_encode changes. */
struct tok_work {
	const struct tok *t;
	unsigned flags;
	uint32_t *ids;
	size_t count, ids_cap;
	struct tok_sym *sym; /* the segment */
	size_t n, sym_cap;
	uint64_t *heap; /* rank << 32 | symbol */
	size_t heap_n, heap_cap;
	uint32_t *rev; /* spm: left bytes of the last way to each piece */
	struct tok_match *match;
	struct tok_buf mended, norm[2], step[TOK_STEPS][2];
};

int tok_work_id(struct tok_work *w, uint32_t id, struct err *err);
int tok_work_sym(struct tok_work *w, uint32_t id, uint32_t len,
		 struct err *err);
void tok_work_release(struct tok_work *w);

/* Fill t->char_id from the index. */
int tok_chars(struct tok *t, struct err *err);
/* The id of the piece of one character s[0..n), or TOK_NONE. */
uint32_t tok_char(const struct tok *t, uint32_t cp, const char *s, size_t n);
/* Append to an id list. */
int tok_list_add(uint32_t **list, size_t *n, size_t *cap, uint32_t id,
		 struct err *err);

int tok_norm_load(struct tok_bpe *b, const struct cJSON *j, struct err *err);
/* Run all steps.  *text then lies where it was or in scratch[2]. */
int tok_norm_run(const struct tok_bpe *b, struct tok_match **match,
		 struct tok_buf scratch[2], struct tok_span *text,
		 struct err *err);
void tok_norm_release(struct tok_bpe *b);
int tok_nfc(const char *s, size_t n, struct tok_buf *out, struct err *err);

int tok_pre_load(struct tok_bpe *b, const struct cJSON *j, struct err *err);
int tok_pre_run(struct tok_work *w, unsigned step, struct tok_span text,
		struct err *err);
void tok_pre_release(struct tok_bpe *b);
/* The byte-level alphabet: byte to code point, and back (-1: not of it). */
uint32_t tok_bytes_char(uint8_t byte);
int tok_bytes_byte(uint32_t cp);

int tok_added_load(struct tok *t, const struct cJSON *j, struct err *err);
/* What is known of id as an added token, or NULL. */
const struct tok_added *tok_added_find(const struct tok_bpe *b, uint32_t id);
/* Cut out the added tokens, and encode what is between. */
int tok_added_run(struct tok_work *w, struct tok_span text, struct err *err);
void tok_added_release(struct tok_bpe *b);

int tok_bpe_open(struct tok *t, const char *text, size_t len,
		 struct err *err);
void tok_bpe_free(struct tok_bpe *b); /* accepts NULL */
int tok_bpe_encode(struct tok_work *w, const char *s, size_t n,
		   struct err *err);
/* The model itself, on one pre-token. */
int tok_bpe_token(struct tok_work *w, const char *s, size_t n,
		  struct err *err);

int tok_dec_load(struct tok_bpe *b, const struct cJSON *j, struct err *err);
void tok_dec_release(struct tok_bpe *b);
/* The running state of a decoder: tokens in, text out. */
struct tok_dec_state {
	struct tok_buf hold; /* fallback: bytes; bytes: a cut character */
	struct tok_buf out;
	uint32_t tokens; /* that came here */
	uint32_t stripped, held;
	bool done; /* nothing more to strip in front */
};
struct tok_dec {
	const struct tok *t;
	bool with_special;
	struct tok_dec_state step[TOK_STEPS];
	struct tok_match *match;
	struct tok_buf out;      /* the text so far */
	bool text_seen, ws_seen; /* spm: for the dummy prefix */
};

int tok_dec_feed(struct tok_dec *d, uint32_t id, struct err *err);
int tok_dec_flush(struct tok_dec *d, struct err *err);

int tok_spm_open(struct tok *t, const char *data, size_t len,
		 struct err *err);
void tok_spm_free(struct tok_spm *m); /* accepts NULL */
int tok_spm_encode(struct tok_work *w, const char *s, size_t n,
		   struct err *err);
int tok_spm_feed(struct tok_dec *d, uint32_t id, struct err *err);
int tok_spm_flush(struct tok_dec *d, struct err *err);

/* The parts of a model file; pieces go to t->dict, the rest to *t->spm. */
int tok_proto_read(struct tok *t, const char *data, size_t len,
		   struct err *err);

int tok_charsmap_init(struct tok_charsmap *c, const uint8_t *blob, size_t n,
		      struct err *err);
/* The longest rule at s: its length and what it gives; 0: no rule. */
size_t tok_charsmap_find(const struct tok_charsmap *c, const char *s,
			 size_t n, const char **to, size_t *to_len);
/* SentencePiece's whole normalization; `user` may be NULL. */
int tok_spm_normalize(const struct tok_spm_norm *m,
		      const struct tok_spm *user, struct tok_span text,
		      struct tok_buf *out, struct err *err);

#endif
