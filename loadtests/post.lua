-- A photo posted over and over: PHOTO=photo.jpg wrk --threads 1 --connections 4 --script loadtests/post.lua URL/predict
local file = assert(io.open(os.getenv("PHOTO"), "rb"))
wrk.method = "POST"
wrk.body = file:read("a")
wrk.headers["Content-Type"] = "image/jpeg"
