/** Where somebody goes who has signed in. */

/** A path of this server as it was asked for; the dashboard for anything else, such as another site's address. */
export function safeNext(wanted: string | undefined): string {
  if (!wanted || !/^\/(?![/\\])/.test(wanted) || /[\u0000-\u001f\\]/.test(wanted)) return "/";
  return /^\/sign-in(?:[/?#]|$)/.test(wanted) ? "/" : wanted;
}

/** Pages that the server makes itself need a new load; the console shows the others without one. */
export const isServersOwn = (path: string): boolean => /^\/(?:docs|api)(?:[/?#]|$)/.test(path);

const PROBLEM = "perdure-sign-in-problem";

/** What the server has to say about a way back from the hosted page that did not end well; told once. */
export function takeProblem(): string {
  const found = document.cookie.split("; ").find((one) => one.startsWith(`${PROBLEM}=`));
  if (!found) return "";
  document.cookie = `${PROBLEM}=; Max-Age=0; Path=/sign-in`;
  return decodeURIComponent(found.slice(PROBLEM.length + 1).replace(/^"|"$/g, ""));
}
