"""The page at /sign-in: user name and password, what the user pool asks besides, and the way to its hosted page.

Self-contained. Its policy allows its own script and style by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files

from fastapi.responses import HTMLResponse

STYLE = """
:root { color-scheme: light dark; --ink: #16202b; --soft: #5b6b7b; --line: #dfe5ea; --paper: #fff; --mark: #0b7a75 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8edf2; --soft: #9fb0c0; --line: #2b3743; --paper: #131a21; --mark: #4fd1c5 }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
main { max-width: 44rem; margin: 12vh auto 4rem; padding: 0 1.5rem }
h1 { font-size: 2.6rem; letter-spacing: -.02em; margin: 0 }
h1 span { color: var(--mark) }
p { color: var(--soft); margin: .4rem 0 2.2rem; font-size: 1.1rem }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .8rem; margin: 0 0 2.2rem }
dl div { border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem }
dt { color: var(--soft); font-size: .85rem }
dd { margin: 0; font-size: 1.9rem; font-variant-numeric: tabular-nums }
ul { list-style: none; padding: 0; border-top: 1px solid var(--line) }
li a { display: flex; justify-content: space-between; padding: .8rem .2rem; border-bottom: 1px solid var(--line) }
a { color: inherit; text-decoration: none }
a:hover, a:focus { color: var(--mark) }
li span { color: var(--soft) }
main { max-width: 24rem }
form, .ways { display: grid; gap: 1rem }
label { display: grid; gap: .3rem; color: var(--soft); font-size: .9rem }
input { font: inherit; color: var(--ink); background: transparent; border: 1px solid var(--line); border-radius: .5rem;
  padding: .65rem .8rem }
input:focus-visible, button:focus-visible, .button:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px }
button, .button { font: inherit; font-weight: 600; text-align: center; cursor: pointer; border-radius: .5rem;
  padding: .7rem 1rem; border: 1px solid var(--mark); background: var(--mark); color: var(--paper) }
button:disabled { opacity: .55; cursor: progress }
.button { background: transparent; color: var(--mark); display: block }
.button:hover { background: var(--mark); color: var(--paper) }
.or { display: flex; align-items: center; gap: .8rem; color: var(--soft); font-size: .85rem; margin: 1.2rem 0 }
.or::before, .or::after { content: ""; flex: 1; border-top: 1px solid var(--line) }
[role=alert] { margin: 0 0 1.2rem; padding: .7rem .9rem; border-radius: .5rem; font-size: .95rem; color: var(--ink);
  border: 1px solid #c2410c; border-left-width: 4px }
[role=alert]:empty { display: none }
.hint { margin: 0; font-size: .95rem }
.link { background: none; border: 0; color: var(--soft); font-weight: 400; padding: 0; text-decoration: underline }
[hidden] { display: none !important }
"""
SCRIPT = (files("api.routes") / "sign_in_page.js").read_text()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; connect-src 'self'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def response(*, hosted: bool, enabled: bool = True, problem: str = "", status: int = 200) -> HTMLResponse:
    """The page, with the button for the hosted page if there is one, and `problem` if something went wrong."""
    return HTMLResponse(_page(hosted, enabled, problem), status, headers={"Content-Security-Policy": POLICY})


def _page(hosted: bool, enabled: bool, problem: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sign in · Perdure</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main><h1>Perdure<span>.</span></h1>"
        f"<p>{'Sign in to go on.' if enabled else 'No sign-in is set up on this server.'}</p>"
        f'<div role="alert" id="problem">{escape(problem)}</div>'
        f"{_forms(hosted) if enabled else _NO_SIGN_IN}"
        f"</main><script>{SCRIPT}</script></body></html>"
    )


def _forms(hosted: bool) -> str:
    way = (
        '<div class="or">or</div><a class="button" id="hosted" href="/api/v1/auth/hosted">Sign in with Cognito</a>'
        if hosted
        else ""
    )
    return (
        "<noscript><p>The form needs JavaScript.</p></noscript>"
        '<form id="password-form"><label>User name<input name="username" autocomplete="username" maxlength="128" '
        'autocapitalize="none" spellcheck="false" required autofocus></label>'
        '<label>Password<input name="password" type="password" autocomplete="current-password" maxlength="256" '
        "required></label><button>Sign in</button></form>"
        '<form id="new-password-form" hidden><p class="hint">This is your first sign-in, or your password was reset. '
        'Choose a new one.</p><label>New password<input name="answer" type="password" autocomplete="new-password" '
        'maxlength="256" required></label><label>New password, once more<input name="again" type="password" '
        'autocomplete="new-password" maxlength="256" required></label><button>Set it and sign in</button>'
        '<button type="button" class="link">Start again</button></form>'
        '<form id="code-form" hidden><p class="hint" id="code-hint"></p><label>Code<input name="answer" '
        'inputmode="numeric" autocomplete="one-time-code" maxlength="16" required></label><button>Sign in</button>'
        '<button type="button" class="link">Start again</button></form>'
        f'<div id="ways">{way}</div>'
    )


_NO_SIGN_IN = '<div class="ways"><a class="button" href="/">To the front page</a></div>'
