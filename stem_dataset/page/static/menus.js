/** Closes a menu that is open: with Escape, with a click elsewhere, and with one on a link in it, such as an export. */

const OPEN_MENU = "details.menu[open]";

export function closeMenus() {
  document.addEventListener("click", (event) => {
    document.querySelectorAll(OPEN_MENU).forEach((menu) => {
      const target = /** @type {Element} */ (event.target);
      if (!menu.contains(target) || target.closest("a")) menu.removeAttribute("open");
    });
  });
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.querySelector(OPEN_MENU);
    if (!menu) return;
    menu.removeAttribute("open");
    menu.querySelector("summary")?.focus();
  });
}
