import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";
import type { Plugin } from "vite";

import { budget } from "./budget";
import { limitsOf } from "./limits";

const STATIC = "../api/static";

/** Writes `name.gz` beside each script and style, once, so that the server need not compress at every request. */
function compressed(): Plugin {
  return {
    name: "compressed",
    apply: "build",
    closeBundle() {
      const folder = join(STATIC, "assets");
      for (const name of readdirSync(folder).filter((one) => /\.(js|css|svg)$/.test(one)))
        writeFileSync(join(folder, `${name}.gz`), gzipSync(readFileSync(join(folder, name)), { level: 9 }));
    },
  };
}

export default defineConfig({
  plugins: [react(), compressed(), budget(), limitsOf(join(import.meta.dirname, "openapi.json"))],
  // The components bring their messages parsed already: the parser would only be weight.
  resolve: {
    alias: [
      {
        find: /^@formatjs\/icu-messageformat-parser$/,
        replacement: "@formatjs/icu-messageformat-parser/lib/no-parser.js",
      },
    ],
  },
  build: {
    outDir: STATIC,
    emptyOutDir: true,
    // Says the server which files each page needs: see api/routes/console.py.
    manifest: "manifest.json",
    chunkSizeWarningLimit: 1200,
    assetsInlineLimit: 0,
  },
  // `npm run dev` beside a running server: PERDURE_API_URL=http://127.0.0.1:8000 npm run dev
  server: { proxy: { "/api": { target: process.env.PERDURE_API_URL ?? "http://127.0.0.1:8000", changeOrigin: true } } },
  // A DOM takes two seconds to make: a file that needs one says so in its first line.
  test: { environment: "node", include: ["*.test.ts", "src/**/*.test.{ts,tsx}"] },
});
