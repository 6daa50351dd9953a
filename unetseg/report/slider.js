for (const input of document.querySelectorAll(".compare input"))
  input.addEventListener("input", () => input.parentNode.style.setProperty("--at", input.value + "%"));
