#include "json.h"

#include <charconv>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <stdexcept>

constexpr int kDeepest = 64;  // values in values

class JsonParser {
   public:
    explicit JsonParser(std::string_view text) : text_(text) {}

    Json whole() {
        Json made = value(0);
        space();
        if (at_ < text_.size()) fail("there is something after the value");
        return made;
    }

   private:
    std::string_view text_;
    size_t at_ = 0;

    [[noreturn]] void fail(const std::string& what) const {
        throw std::runtime_error(what + " at byte " + std::to_string(at_));
    }

    void space() {
        while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
    }

    bool next(char wanted) {
        space();
        if (at_ >= text_.size() || text_[at_] != wanted) return false;
        return ++at_, true;
    }

    void expect(char wanted) {
        if (!next(wanted)) fail(std::string("expected ") + wanted);
    }

    bool word(std::string_view wanted) {
        if (text_.substr(at_, wanted.size()) != wanted) return false;
        return at_ += wanted.size(), true;
    }

    Json value(int depth) {
        if (depth > kDeepest) fail("too many values in one another");
        Json made;
        space();
        if (next('{')) {
            made.value_ = object(depth);
        } else if (next('[')) {
            made.value_ = list(depth);
        } else if (next('"')) {
            made.value_ = text();
        } else if (word("true")) {
            made.value_ = true;
        } else if (word("false")) {
            made.value_ = false;
        } else if (word("null")) {
            made.value_ = nullptr;
        } else {
            made.value_ = number();
        }
        return made;
    }

    Json::Object object(int depth) {
        Json::Object made;
        if (next('}')) return made;
        do {
            expect('"');
            std::string name = text();
            expect(':');
            made.emplace_back(std::move(name), value(depth + 1));
        } while (next(','));
        expect('}');
        return made;
    }

    Json::List list(int depth) {
        Json::List made;
        if (next(']')) return made;
        do made.push_back(value(depth + 1));
        while (next(','));
        expect(']');
        return made;
    }

    double number() {
        double made = 0;
        const char* begin = text_.data() + at_;
        const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), made);
        if (error != std::errc()) fail("expected a value");
        at_ += static_cast<size_t>(end - begin);
        return made;
    }

    std::string text() {
        std::string made;
        for (;;) {
            if (at_ >= text_.size()) fail("a text has no end");
            const char c = text_[at_++];
            if (c == '"') return made;
            made += c == '\\' ? escaped() : std::string(1, c);
        }
    }

    std::string escaped() {
        if (at_ >= text_.size()) fail("a text has no end");
        const char c = text_[at_++];
        if (c == 'u') return utf8(unit());
        constexpr std::string_view names = "\"\\/bfnrt", values = "\"\\/\b\f\n\r\t";
        const size_t found = names.find(c);
        if (found == std::string_view::npos) fail("an unknown escape");
        return std::string(1, values[found]);
    }

    uint32_t unit() {  // the four digits of \uXXXX
        uint32_t made = 0;
        const char* begin = text_.data() + at_;
        if (text_.size() - at_ < 4) fail("expected four digits");
        const auto [end, error] = std::from_chars(begin, begin + 4, made, 16);
        if (error != std::errc() || end != begin + 4) fail("expected four digits");
        at_ += 4;
        return made;
    }

    std::string utf8(uint32_t code) {
        if (code >= 0xd800 && code < 0xdc00 && word("\\u")) {  // half of a pair
            const uint32_t low = unit();
            if (low < 0xdc00 || low > 0xdfff) fail("half a pair");
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        const auto tail = [code](int shift) { return static_cast<char>(0x80 | (code >> shift & 0x3f)); };
        if (code < 0x80) return {static_cast<char>(code)};
        if (code < 0x800) return {static_cast<char>(0xc0 | code >> 6), tail(0)};
        if (code < 0x10000) return {static_cast<char>(0xe0 | code >> 12), tail(6), tail(0)};
        return {static_cast<char>(0xf0 | code >> 18), tail(12), tail(6), tail(0)};
    }
};

Json Json::read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path.string() + " cannot be read");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    try {
        return JsonParser(text).whole();
    } catch (const std::runtime_error& error) {
        throw std::runtime_error(path.string() + " is no JSON: " + error.what());
    }
}

template <typename Kind>
const Kind& Json::as(const char* expected) const {
    const Kind* value = std::get_if<Kind>(&value_);
    if (!value) throw std::runtime_error(std::string("expected ") + expected);
    return *value;
}

template const Json::List& Json::as<Json::List>(const char*) const;
template const std::string& Json::as<std::string>(const char*) const;
template const double& Json::as<double>(const char*) const;
template const bool& Json::as<bool>(const char*) const;

bool Json::has(std::string_view name) const {
    for (const auto& [key, value] : as<Object>("an object"))
        if (key == name) return !value.null();
    return false;
}

const Json& Json::operator[](std::string_view name) const {
    for (const auto& [key, value] : as<Object>("an object"))
        if (key == name) return value;
    throw std::runtime_error("there is no " + std::string(name));
}

std::vector<double> Json::numbers() const {
    std::vector<double> made;
    for (const Json& value : list()) made.push_back(value.number());
    return made;
}
