(() => {
  const base = new URL(".", document.currentScript.src).href;
  window.requirejs.config({ baseUrl: base });
  window.addEventListener("load", () => { if (window.MathJax) window.MathJax.Hub ??= { Queue() {} }; });
})();
