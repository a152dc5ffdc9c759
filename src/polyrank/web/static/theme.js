/** Applies the chosen theme before the first paint; a classic script, so that nothing flashes. */
document.documentElement.dataset.theme = localStorage.getItem("polyrank.theme") ?? "system";
