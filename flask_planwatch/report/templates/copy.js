(function () {
  const panel = document.currentScript.parentElement;
  panel.addEventListener("click", async function (event) {
    const button = event.target.closest("button.copy");
    if (!button) return;
    const source = button.parentElement.querySelector("pre");
    let copied = true;
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      // No clipboard without HTTPS: what is selected can be copied, by us or by hand.
      getSelection().selectAllChildren(source);
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Selected";
    setTimeout(function () { button.textContent = "Copy"; }, 1500);
  });
})();
