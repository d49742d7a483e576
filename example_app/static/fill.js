// The page of a story answers at once. This asks for the rest of it, one step after the other.
(async () => {
  while (document.querySelector("main").dataset.next) {
    const shown = document.querySelector("main");
    let page;
    try {
      const response = await fetch(shown.dataset.next);
      if (!response.ok) throw new Error(response.statusText);
      page = new DOMParser().parseFromString(await response.text(), "text/html");
    } catch (error) {
      shown.querySelector("#filling").textContent = "The example does not answer. Load the page again.";
      return;
    }
    const main = page.querySelector("main");
    main.prepend(...shown.querySelectorAll(".note"));
    if (main.dataset.next) {
      shown.replaceWith(main);
    } else {
      // The whole page, so that its toolbar is that of the request that sent the query.
      const place = scrollY;
      document.open();
      document.write(`<!doctype html>${page.documentElement.outerHTML}`);
      document.close();
      scrollTo(0, place);
    }
  }
})();
