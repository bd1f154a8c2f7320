"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const forms = { password: find("password-form"), renew: find("new-password-form"), code: find("code-form") };
  if (!forms.password) return;
  const hints = {
    SMS_MFA: "A code was sent to your phone.",
    EMAIL_OTP: "A code was sent to you by e-mail.",
    SOFTWARE_TOKEN_MFA: "Enter the code that your authenticator app shows.",
  };
  // Only a path of this server; the server checks it again for the hosted page.
  const wanted = new URLSearchParams(location.search).get("next") || "/";
  const next = /^\/(?![/\\])[A-Za-z0-9/_.~%?=&+-]*$/.test(wanted) ? wanted : "/";
  let challenge = null;

  const say = (text) => { find("problem").textContent = text; };
  const show = (name) => {
    for (const [key, form] of Object.entries(forms)) form.hidden = key !== name;
    find("ways").hidden = name !== "password";
    forms[name].querySelector("input").focus();
  };
  const again = (text) => {
    challenge = null;
    for (const form of Object.values(forms)) form.reset();
    say(text);
    show("password");
  };
  const went = (answer) => {
    say("");
    if (!answer.challenge) { location.replace(next); return; }
    challenge = answer.challenge;
    if (challenge.challenge === "NEW_PASSWORD_REQUIRED") { show("renew"); return; }
    find("code-hint").textContent = hints[challenge.challenge] || "Enter the code.";
    show("code");
  };
  const ask = async (form, path, body) => {
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const answer = await fetch(`/api/v1/auth/${path}`, {
        method: "POST",
        credentials: "same-origin",
        headers: { "Content-Type": "application/json", "X-Perdure-Request": "page" },
        body: JSON.stringify({ ...body, keep: "cookie" }),
      });
      const said = await answer.json();
      if (answer.ok) went(said);
      else if (challenge && answer.status === 401) again(said.error.message);
      else say(said.error.message);
    } catch {
      say("The server does not answer. Try again in a moment.");
    } finally {
      button.disabled = false;
    }
  };
  const on = (form, send) => form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(new FormData(form));
  });

  on(forms.password, (data) => ask(forms.password, "sign-in", {
    username: data.get("username"), password: data.get("password"),
  }));
  on(forms.renew, (data) => {
    if (data.get("answer") !== data.get("again")) { say("The two new passwords are not the same."); return; }
    ask(forms.renew, "challenge", { ...challenge, answer: data.get("answer") });
  });
  on(forms.code, (data) => ask(forms.code, "challenge", { ...challenge, answer: data.get("answer").trim() }));
  for (const link of document.querySelectorAll(".link")) link.addEventListener("click", () => again(""));
  const hosted = find("hosted");
  if (hosted) hosted.href += `?next=${encodeURIComponent(next)}`;
})();
