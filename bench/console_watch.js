// Runs in each page that bench/console.py measures: tells when something is there to be seen.
(() => {
  let wanted = null; // { event, selector, before, at, done }

  const rows = () => [...document.querySelectorAll("table tbody th a")].map((one) => one.href).join(" ");

  // The frame that begins now is painted before the next task.
  const painted = (tell) =>
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => tell(performance.now());
      port2.postMessage(null);
    });

  const when = (there) =>
    new Promise((tell) => {
      if (there()) return painted(tell);
      const watcher = new MutationObserver(() => {
        if (!there()) return;
        watcher.disconnect();
        painted(tell);
      });
      watcher.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    });

  for (const event of ["click", "keydown"])
    addEventListener(event, (deed) => wanted?.event === event && (wanted.at = deed.timeStamp), { capture: true });

  window.perdureWatch = {
    // Milliseconds since the navigation began. Asked after the load, so what was there before is found at once: its
    // time is that of the observer that has watched from the beginning.
    shown: (selector) => watching(selector),
    begin: (event, selector) => {
      const before = rows();
      wanted = { event, at: null };
      const there = selector
        ? () => document.querySelector(selector) !== null
        : () => wanted.at !== null && rows() !== before && rows() !== "";
      wanted.done = when(there);
    },
    ended: async () => (await wanted.done) - wanted.at,
  };

  const seen = new Map();
  const asked = ["[data-testid=total_jobs]", "[data-testid=standing]"];
  for (const selector of asked) seen.set(selector, when(() => document.querySelector(selector) !== null));
  const watching = (selector) => seen.get(selector);
})();
