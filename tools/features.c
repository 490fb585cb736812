/* gptq --version: what this build holds, each part asked for itself. */
#include "applets.h"

#include "../kernels/backend.h"
#include "../kernels/tile.h"
#include "../libfmt/config.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <cjson/cJSON.h>
#include <pcre2.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#include <zlib.h>
#include <zstd.h>

/* A device is asked to open itself: what it says then is what a run would
 * use, and a plug-in that does not load says why. */
static void device(const char *label, const char *name)
{
	const struct be_api *api;
	char why[256] = "";
	struct err err = { 0, "" };
	struct be *be = NULL;

	if (be_select(name, tile_cores(), NULL, &api, &be, why, &err)) {
		printf("  %-10s not usable: %s\n", label, err.msg);
		return;
	}
	printf("  %-10s %s\n", label, api->describe(be));
	api->close(be);
}

void applet_version(int verbose)
{
	char pcre[64] = "";
	unsigned xxh = XXH_versionNumber();

	/* the version has one home: what is written into checkpoints */
	printf("gptq %s\n", strchr(CONFIG_QUANTIZER, ':') + 1);
	if (!verbose)
		return;
	pcre2_config(PCRE2_CONFIG_VERSION, pcre);
	device("CPU", "cpu");
	device("CUDA", "cuda");
	printf("  %-10s cJSON %s, PCRE2 %.*s, zlib %s, zstd %s, xxHash "
	       "%u.%u.%u\n", "libraries", cJSON_Version(),
	       (int)strcspn(pcre, " "), pcre, zlibVersion(),
	       ZSTD_versionString(), xxh / 10000, xxh / 100 % 100, xxh % 100);
	printf("  %-10s %s, C%ld\n", "compiler",
#if defined(__clang__)
	       "clang " __clang_version__,
#elif defined(__GNUC__)
	       "gcc " __VERSION__,
#else
	       "unknown",
#endif
	       __STDC_VERSION__ / 100 % 100);
}
